#!/bin/bash
# Train the built-in model on a machine with a GPU and no network, in minutes. From the root of the repository:
#
#   there is   build/carry/part-*.tgz     python recipes/carry.py recipes/sat-1.toml build/carry
#   maybe      build/carry/wheels/*.whl   packages that are not there (soundfile, soxr, cffi, pycparser)
#   and        build/sat/1/targets        clusters of MFCC, made where kaldi-native-fbank is:
#              python -c "from unisat.training import loop, recipe; loop.targets_of(recipe.read('recipes/sat-1.toml'))"
#   and        build/lda/1/targets        python recipes/discriminant.py recipes/lda-1.toml
#
#   recipes/gpu.sh train --out OUT --seconds 500
#   recipes/gpu.sh heads --out OUT --seconds 60
#
# Parts may come one after the other: what is unpacked stays. Tried without a GPU, too: add --set for a small model.
set -euo pipefail
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false
export PYTHONPATH="$PWD:$PWD/build/site"
if compgen -G "build/carry/wheels/*.whl" > /dev/null && [ ! -d build/site ]; then
    python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target build/site build/carry/wheels/*.whl
fi
python3 recipes/gpu.py unpack
python3 recipes/gpu.py "$@"
