#!/bin/bash
# All that wants a GPU, in one go: tests of the numbers, then times beside the transformers of this interpreter. From the
# root of the repository, on a machine with torch for CUDA, transformers, pytest, and what unisat imports; no network.
#
#   benchmarks/gpu.sh OUT            # OUT gets the tests' words, results.json and performance.md
#   DEVICE=cpu ROUNDS=1 ONLY=forward benchmarks/gpu.sh OUT    # tries the script itself where there is no GPU
set -uo pipefail
OUT="${1:?where to put the results}"
DEVICE="${DEVICE:-cuda}" ROUNDS="${ROUNDS:-5}"
ONLY="${ONLY:-forward ragged everything tf32 compiled bf16 large_bf16 wavlm hubert wav2vec2 xvector step_tiny step_base step_bf16}"
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}" TOKENIZERS_PARALLELISM=false
export PYTHONPATH="$PWD:$PWD/build/site"
mkdir -p "$OUT" build
if compgen -G "build/carry/wheels/*.whl" > /dev/null && [ ! -d build/site ]; then
    python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target build/site build/carry/wheels/*.whl
fi
UNISAT_TEST_DEVICE="$DEVICE" timeout 150 python3 -m pytest -q -x -p no:cacheprovider tests/test_gpu.py 2>&1 | tee "$OUT/tests.txt" | tail -15
# shellcheck disable=SC2086
timeout 380 python3 -m benchmarks --device "$DEVICE" --against transformers-here --rounds "$ROUNDS" --threads "$OMP_NUM_THREADS" --only $ONLY 2>&1 | tee "$OUT/times.txt"
cp benchmarks/results.json docs/performance.md "$OUT"
