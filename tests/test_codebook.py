"""Codebooks with planted use: dead entries, perplexities and what codes know, against simulation and scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import digamma
from sklearn.metrics import mutual_info_score

import unisat as us
from unisat.interpret.features.bank import LENGTHS, FeatureBank, Part
from unisat.interpret.features.collect import collect
from unisat.interpret.units.codebook import (
    codebook_usage,
    corrected_entropy,
    frames_to_see_all,
    mutual_information,
    rarefy,
    unseen_if_uniform,
    unseen_probability,
)
from unisat.quantizer import GumbelVectorQuantizer


def bank_of(counts, about=None, **columns):
    ids = [f"u{row}" for row in range(len(counts))]
    return FeatureBank.from_arrays(pd.DataFrame({"id": ids, **columns}), {"quant.codes": counts}, about)


def bank_of_frames(codes, lengths, about=None, site="quant.codes", **columns):
    table = pd.DataFrame({"id": [f"u{row}" for row in range(len(lengths))], **columns})
    return FeatureBank(
        table, [Part(np.arange(len(lengths)), {site: codes, site + LENGTHS: np.array(lengths)})], None, about
    )


# estimates


def chao_wang_jost(counts):
    """Their equation 8, term by term."""
    n = int(counts.sum())
    total = 0.0
    for x in counts[counts > 0].tolist():
        if x < n:
            total += x / n * sum(1 / k for k in range(x, n))
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    if twice:
        a = 2 * twice / ((n - 1) * once + 2 * twice)
    elif once:
        a = 2 / ((n - 1) * (once - 1) + 2)
    else:
        a = 1
    if a < 1:
        rest = -np.log(a) - sum((1 - a) ** r / r for r in range(1, n))
        total += once / n * (1 - a) ** (1 - n) * rest
    return total


@pytest.mark.parametrize(
    "counts",
    [[1], [5], [1, 1], [1, 2], [3, 0, 4], [1, 1, 1, 9], [2, 2, 2], [1] * 20 + [30], [1, 1, 2, 7, 0, 40], [1, 50, 60]],
)
def test_correction_is_the_published_one(counts):
    assert corrected_entropy(np.array(counts)) == pytest.approx(chao_wang_jost(np.array(counts)), abs=1e-9)


def test_many_histograms_at_once():
    counts = np.random.default_rng(0).multinomial(60, np.full(12, 1 / 12), size=(3, 4))
    each = [[float(corrected_entropy(row)) for row in rows] for rows in counts]
    np.testing.assert_allclose(corrected_entropy(counts), each, rtol=1e-12)
    # without entries seen once, it is the unbiased part alone
    even = np.array([4, 6, 8])
    expected = sum(x / 18 * (digamma(18) - digamma(x)) for x in even)
    assert corrected_entropy(even) == pytest.approx(expected)
    with pytest.raises(ValueError, match="no frame was counted"):
        corrected_entropy(np.zeros((2, 3), dtype=int))


def test_an_even_book_reads_its_size_from_499_frames():
    draws = np.random.default_rng(0).multinomial(499, np.full(320, 1 / 320), size=1000)
    corrected = np.exp(corrected_entropy(draws))
    assert corrected.mean() == pytest.approx(320, rel=0.01)
    assert (np.abs(corrected / 320 - 1) < 0.15).mean() > 0.99
    share = draws / 499
    plug_in = np.exp(-(share * np.log(np.where(share > 0, share, 1))).sum(1))
    assert plug_in.max() < 0.8 * 320
    report = codebook_usage(draws[0][None])
    row = report.summary().iloc[0]
    assert row["perplexity"] == pytest.approx(plug_in[0])
    assert row["perplexity_corrected"] == pytest.approx(min(corrected[0], 320))
    assert row["frames"] == report.settings["counted_frames"] == 499
    assert row["unseen"] == (draws[0] == 0).sum()
    assert row["unseen_if_uniform"] == pytest.approx((draws == 0).sum(1).mean(), rel=0.02)


@pytest.mark.parametrize("frames", [200, 499, 2000])
@pytest.mark.parametrize("book", ["geometric", "zipf", "half"])
def test_corrected_perplexity_of_uneven_books(book, frames):
    rank = np.arange(1, 321)
    share = {"geometric": 0.97**rank, "zipf": 1 / rank, "half": (rank <= 160).astype(float)}[book]
    share /= share.sum()
    true = np.exp(-(share[share > 0] * np.log(share[share > 0])).sum())
    draws = np.random.default_rng(1).multinomial(frames, share, size=300)
    assert np.exp(corrected_entropy(draws)).mean() == pytest.approx(true, rel=0.08)


def test_interval_covers_the_truth_of_clustered_frames():
    """20 speakers with favourites, three frames in a row of each code: 200 frames each of a book of 100."""
    draw = np.random.default_rng(0)
    share = draw.dirichlet(np.ones(100))
    true = np.exp(-(share * np.log(share)).sum())
    speakers, covered, values, naive = [f"s{row}" for row in range(20)], 0, [], []
    for _ in range(150):
        counts = np.stack([3 * draw.multinomial(66, draw.dirichlet(50 * share)) for _ in speakers])
        row = codebook_usage(bank_of(counts[:, None], speaker=speakers)).summary().iloc[0]
        covered += row["low"] <= true <= row["high"]
        values.append(row["perplexity_corrected"])
        naive.append(np.exp(corrected_entropy(counts.sum(0))))
    assert 0.90 <= covered / 150 <= 0.99
    assert np.mean(values) == pytest.approx(true, rel=0.02)
    assert np.mean(naive) < 0.95 * true  # frames taken for independent


@pytest.mark.parametrize("speakers", [2, 3, 4])
def test_the_interval_of_few_speakers_is_students(speakers):
    """With two speakers Student's quantile is 12.7, and an expansion for many speakers would say 7.1."""
    draw = np.random.default_rng(0)
    counts = draw.multinomial(3000, draw.dirichlet(np.full(40, 2)), size=speakers)
    row = codebook_usage(bank_of(counts[:, None], speaker=[f"s{n}" for n in range(speakers)])).summary().iloc[0]
    whole = corrected_entropy(counts.sum(0))
    without = [corrected_entropy(np.delete(counts, n, axis=0).sum(0)) for n in range(speakers)]
    middle = speakers * whole - (speakers - 1) * np.mean(without)
    error = np.sqrt((speakers - 1) / speakers * np.sum((without - np.mean(without)) ** 2))
    reach = stats.t.ppf(0.975, speakers - 1) * error
    assert np.exp(middle + reach) < 40  # so that nothing is cut off
    assert row["perplexity_corrected"] == pytest.approx(np.exp(middle))
    assert (row["low"], row["high"]) == pytest.approx((np.exp(middle - reach), np.exp(middle + reach)), rel=1e-9)


def test_rarefaction_is_what_drawing_frames_gives():
    draw = np.random.default_rng(0)
    counts = np.array([50, 20, 20, 5, 3, 1, 1, 0])
    frames = np.repeat(np.arange(8), counts)
    for size in (1, 2, 10, 40, 99, 100):
        drawn = np.mean([len(set(draw.permutation(frames)[:size].tolist())) for _ in range(2000)])
        assert rarefy(counts, [size])[0] == pytest.approx(drawn, abs=0.06)
    assert rarefy(counts, [0, 1, 100]) == pytest.approx([0, 1, 7])
    book = draw.multinomial(1000, np.full(64, 1 / 64), size=400)
    assert unseen_if_uniform(64, 200) == pytest.approx(np.mean([64 - rarefy(c, [200])[0] for c in book]), rel=0.02)
    with pytest.raises(ValueError, match="between 0 and the 100"):
        rarefy(counts, [101])


def test_information_is_scikit_learns():
    draw = np.random.default_rng(0)
    for _ in range(5):
        a, b = draw.integers(0, 6, size=200), draw.integers(0, 4, size=200)
        table = np.zeros((6, 4))
        np.add.at(table, (a, b), 1)
        assert mutual_information(table) == pytest.approx(mutual_info_score(a, b) / np.log(2))


# reports


def test_unseen_entries_may_be_rare_and_the_report_says_how_rare():
    """A skewed book that uses all of its entries leaves many unseen, and none of these has a share over the bound."""
    share = 0.97 ** np.arange(320)
    share /= share.sum()
    counts = np.random.default_rng(0).multinomial(4000, share)
    assert frames_to_see_all(320) == 3315 < 4000
    row = codebook_usage(counts[None]).summary().iloc[0]
    assert row["unseen"] == (counts == 0).sum() > 50
    assert row["unseen_below"] == pytest.approx(3 / 4000, rel=0.01)
    # an entry of just this share is unseen in one of twenty corpora
    unseen = np.random.default_rng(1).binomial(4000, row["unseen_below"], size=20_000) == 0
    assert unseen.mean() == pytest.approx(0.05, abs=0.005)
    assert unseen_probability(row["unseen_below"], 4000) == pytest.approx(0.05)
    above = share >= row["unseen_below"]
    assert (counts[above] == 0).mean() < 0.05
    needed = frames_to_see_all(40)
    assert unseen_if_uniform(40, needed) < 0.01 < unseen_if_uniform(40, needed - 1)


def test_the_old_name_of_a_number_of_frames_warns():
    from unisat.interpret.units import codebook

    with pytest.warns(DeprecationWarning, match="frames_to_see_all"):
        assert codebook.frames_to_call_dead(40) == frames_to_see_all(40)


def test_table_ranks_entries_and_says_what_even_use_would_show():
    counts = np.array([[5, 0, 90, 5]])
    table = codebook_usage(counts).table()
    assert table["count"].tolist() == [5, 0, 90, 5]
    assert table["share"].tolist() == [0.05, 0, 0.9, 0.05]
    assert table["rank"].tolist() == [1, 3, 0, 2]
    even = table.sort_values("rank")["even_share"].to_numpy()
    assert even.sum() == pytest.approx(1)
    assert (np.diff(even) < 0).all()
    sorted_draws = np.sort(np.random.default_rng(9).multinomial(100, np.full(4, 0.25), size=4000), axis=1)
    np.testing.assert_allclose(even, sorted_draws[:, ::-1].mean(0) / 100, atol=0.015)


def test_codes_of_frames_are_counted_alone_and_together():
    draw = np.random.default_rng(0)
    lengths = [300, 500, 0, 700]
    first = draw.integers(0, 4, size=1500)
    codes = np.stack([first, (first + draw.integers(0, 2, size=1500)) % 4], axis=1)
    report = codebook_usage(bank_of_frames(codes, lengths, {"frames": "masked"}), entries=5)
    for row, (start, end) in enumerate(((0, 300), (300, 800), (800, 800), (800, 1500))):
        for group in range(2):
            expected = np.bincount(codes[start:end, group], minlength=5)
            assert report.counts[row, group].tolist() == expected.tolist()
    summary = report.summary().set_index("group")
    assert summary["entries"].tolist() == [5, 5, 25]
    assert summary["used"].tolist() == [4, 4, 8]
    assert summary.loc["joint", "perplexity"] == pytest.approx(8, rel=0.02)
    assert summary["unseen"].tolist() == [1, 1, 17]
    assert report.settings["frames"] == "masked"
    # counts alone do not say which codes come together
    assert codebook_usage(report.counts).summary()["group"].tolist() == ["0", "1"]


def planted(seed=0, speakers=8, utterances=6, frames=40, entries=12):
    """Group 0 follows the speaker, group 1 nothing but the utterance; sex is the speaker's, text the utterance's."""
    draw = np.random.default_rng(seed)
    who = np.repeat(np.arange(speakers), utterances)
    own = draw.dirichlet(np.full(entries, 0.3), size=speakers)
    each = draw.dirichlet(np.full(entries, 0.3), size=len(who))
    counts = np.stack(
        [[draw.multinomial(frames, own[s]), draw.multinomial(frames, e)] for s, e in zip(who, each, strict=True)]
    )
    columns = {"speaker": [f"s{s}" for s in who], "sex": ["FM"[s % 2] for s in who]}
    return bank_of(counts, **columns, text=[f"t{n % utterances}" for n in range(len(who))])


def test_codes_that_follow_the_speaker_are_found_and_those_of_utterances_alone_are_not():
    bank = planted()
    report = codebook_usage(bank, labels=["speaker", "text", "sex"])
    found = report.information.set_index(["label", "group"])
    counts, who = bank["quant.codes"], bank.table["speaker"]
    codes = np.repeat(np.tile(np.arange(12), len(counts)), counts[:, 0].ravel())
    expected = mutual_info_score(codes, np.repeat(who, counts[:, 0].sum(1))) / np.log(2)
    speaker = found.loc[("speaker", 0)]
    assert speaker["mi_bits"] == pytest.approx(expected)
    assert speaker["entropy_bits"] == pytest.approx(3)
    assert speaker["pnmi"] == pytest.approx(expected / 3)
    assert speaker["corrected_bits"] == pytest.approx(expected - speaker["floor_bits"])
    assert speaker["mi_bits"] > 1.5 * speaker["floor_high"]
    assert speaker["p_value"] == pytest.approx(1 / 101)
    # frames of one utterance are alike, so that any grouping of utterances looks informed; the floor sees it
    nothing = found.loc[("speaker", 1)]
    assert nothing["mi_bits"] > 0.2
    assert nothing["p_value"] > 0.02
    assert abs(nothing["corrected_bits"]) < 0.1
    assert found.loc[("text", 0), "corrected_bits"] < 0.05
    # sex belongs to speakers: shuffled among them, what tells speakers apart tells of sex no more than of any halves
    # texts differ within speakers, and are exchanged there
    assert found["shuffled"].tolist() == ["utterances"] * 2 + ["utterances of each speaker"] * 2 + ["speakers"] * 2
    assert found.loc[("sex", 0), "mi_bits"] > 0.1
    assert found.loc[("sex", 0), "p_value"] > 0.05
    among = codebook_usage(
        FeatureBank.from_arrays(bank.table.drop(columns="speaker"), {"quant.codes": counts}), labels="sex"
    )
    assert among.information["shuffled"].tolist() == ["utterances"] * 2
    assert among.information["p_value"].iloc[0] < 0.02
    again = codebook_usage(bank, labels=["speaker", "text", "sex"])
    pd.testing.assert_frame_equal(again.information, report.information)


def test_labels_crossed_with_speakers_are_not_known_by_the_voice():
    """All speakers say the same texts and codes follow the voice: shuffled over all, texts would seem less known."""
    bank = planted()
    found = codebook_usage(bank, labels=["speaker", "text"]).information.set_index(["label", "group"])
    assert abs(found.loc[("text", 0), "corrected_bits"]) < 0.01
    assert 0.1 < found.loc[("text", 0), "p_value"] < 0.9
    assert found.loc[("speaker", 0), "shuffled"] == "utterances"
    inside = codebook_usage(bank, labels="speaker", within="text").information
    assert inside["shuffled"].tolist() == ["utterances of each text"] * 2
    assert inside["mi_bits"][0] == found.loc[("speaker", 0), "mi_bits"]


def test_words_that_only_speakers_favour_are_not_known():
    """Speakers favour codes and words, and codes say nothing of the word that is spoken."""
    draw = np.random.default_rng(0)
    low = 0
    for _ in range(60):
        codes, words = [], []
        for _speaker in range(6):
            favourite = draw.integers(0, 4, size=2)
            for _utterance in range(4):
                for kind, run in ((0, 4), (1, 10)):
                    each = np.where(draw.random(60) < 0.5, favourite[kind], draw.integers(0, 4, size=60))
                    (codes, words)[kind].append(np.repeat(each, run)[:60])
        bank = bank_of_frames(np.concatenate(codes)[:, None], [60] * 24, speaker=np.repeat(list("abcdef"), 4))
        report = codebook_usage(bank, entries=4, frame_labels={"word": words}, n_shuffles=19)
        low += report.information["p_value"][0] <= 0.05
        assert report.information["shuffled"][0] == "frames of each utterance, moved round"
        # a word for each utterance is moved within the speaker
        one = codebook_usage(bank, entries=4, frame_labels={"word": [word[:1].repeat(60) for word in words]})
        assert one.information["shuffled"][0] == "frames of each speaker, moved round"
    assert low <= 8  # 3 expected; moved over all frames, most would be


def test_codes_that_follow_the_label_of_a_frame_are_found():
    draw = np.random.default_rng(0)
    lengths = [200, 300]
    phones = np.repeat(draw.integers(0, 5, size=100), 5)  # five frames each
    codes = np.stack([(phones + (draw.random(500) < 0.2)) % 5, np.repeat(draw.integers(0, 5, size=100), 5)], axis=1)
    labels = {"u0": phones[:200], "u1": phones[200:]}
    bank = bank_of_frames(codes, lengths)
    report = codebook_usage(bank, entries=5, frame_labels={"phone": labels})
    found = report.information.set_index("group")
    assert found["mi_bits"].tolist() == pytest.approx(
        [mutual_info_score(codes[:, group], phones) / np.log(2) for group in range(2)]
    )
    assert found["p_value"][0] < 0.02
    assert found["pnmi_corrected"][0] > 0.4
    assert found["p_value"][1] > 0.02
    flat = codebook_usage(bank, entries=5, frame_labels={"phone": phones}).information
    pd.testing.assert_frame_equal(flat, report.information)
    # frames without a label are left out
    names = np.array(["a", "b", "c", "d", ""], dtype=object)[phones]
    some = codebook_usage(bank, entries=5, frame_labels={"phone": names}).information
    assert some["frames"].tolist() == [(phones < 4).sum()] * 2
    known = phones < 4
    assert some["mi_bits"][0] == pytest.approx(mutual_info_score(codes[known, 0], phones[known]) / np.log(2))


def test_shares_are_each_speakers_own():
    bank = planted()
    shares = codebook_usage(bank).shares("speaker", group=1)
    mine = bank["quant.codes"][bank.table["speaker"] == "s3", 1].sum(0)
    np.testing.assert_allclose(shares.loc["s3"], mine / mine.sum())
    assert shares.sum(axis=1).to_numpy() == pytest.approx(np.ones(8))
    # who is not heard in these frames has no shares
    counts = bank["quant.codes"].copy()
    counts[bank.table["speaker"] == "s0"] = 0
    silent = FeatureBank.from_arrays(bank.table, {"quant.codes": counts})
    assert "s0" not in codebook_usage(silent).shares("speaker").index


def test_other_frames_than_masked_ones_are_said():
    counts = planted()["quant.codes"]
    with pytest.warns(UserWarning, match="codes of valid frames, but in pretraining the quantizer reads masked ones"):
        report = codebook_usage(bank_of(counts, {"frames": "valid", "model": "m"}))
    assert report.settings["frames"] == "valid"
    assert report.settings["model"] == "m"
    assert report.settings["interval_over"] == "utterances"


def test_the_built_in_checkpoint_counts_codes_of_masked_frames():
    model, corpus = us.load("tiny", "pretraining"), us.corpus.builtin().where(sentence=["s01", "s02"])
    some = corpus.sample(8, seed=0)
    counted = collect(model, some, "quant.codes", reduce="counts", frames="masked", progress=False)
    framed = collect(model, some, "quant.codes", reduce="frames", frames="masked", progress=False)
    entries = model.config.num_codevectors_per_group
    report, frames = codebook_usage(counted), codebook_usage(framed, entries=entries)
    np.testing.assert_array_equal(report.counts, frames.counts)
    assert report.counts.shape == (8, model.config.num_codevector_groups, entries)


@pytest.mark.wrong_types
def test_mistakes():
    bank = planted()
    counts = bank["quant.codes"]
    codes = np.zeros((5, 1), dtype=int)
    holed = counts.astype(float)
    holed[4, 0, 0] = np.nan
    nameless = bank.table.assign(speaker=[None, *bank.table["speaker"][1:]])
    hidden = FeatureBank.from_arrays(bank.table, {"hidden.0": np.zeros((len(bank), 2))})
    for source, options, message in [
        (hidden, {}, "this checkpoint has no quantizer, or .* no 'quant.codes', only hidden.0"),
        (bank, dict(n_shuffles=0), "n_shuffles=0 must be at least 1"),
        (bank, dict(labels="speeker"), "no column 'speeker' .did you mean speaker"),
        (
            FeatureBank.from_arrays(nameless, {"quant.codes": counts}),
            dict(labels="speaker"),
            "'speaker' is empty for 1",
        ),
        (bank.where(sex="F"), dict(labels="sex"), "'sex' has one value only"),
        (bank, dict(frame_labels={"phone": {}}), "'phone' labels frames, but the codes of frames were not kept"),
        (bank, dict(entries=320), r"counts must be \(utterances, groups, 320\), got \(48, 2, 12\)"),
        (np.zeros(4), {}, r"counts must be \(utterances, groups, entries\), got \(4,\)"),
        (np.zeros((1, 4), dtype=int), {}, "the groups' counts differ or are 0"),
        (np.array([[1, 2], [2, 2]]), {}, "the groups' counts differ or are 0"),
        (np.array([[1.5, 2.0]]), {}, "whole numbers from 0, got float64 from 1.5"),
        (np.array([[-1, 2]]), {}, "whole numbers from 0, got int64 from -1"),
        (bank_of(holed), {}, r"counts of 1 utterance\(s\) are not finite, first 'u4'"),
        (bank_of_frames(codes, [5]), {}, "pass entries=model.config.num_codevectors_per_group"),
        (bank_of_frames(codes + 7, [5]), dict(entries=7), "whole numbers from 0 to 6, .* got int64 of .5, 1. up to 7"),
        (bank_of_frames(codes + 0.5, [5]), dict(entries=7), "got float64"),
        (bank_of_frames(codes, [3, 2]), dict(entries=7, frame_labels={"p": {"u0": [1, 2, 3]}}), "1 .*, first 'u1'"),
        (
            bank_of_frames(codes, [3, 2]),
            dict(entries=7, frame_labels={"p": {"u0": [1, 2, 3], "u1": [1]}}),
            "'u1' has 2 frames, but 'p' of shape",
        ),
        (
            bank_of_frames(codes, [5]),
            dict(entries=7, frame_labels={"p": [1, 2]}),
            "each of the 5 frames, got shape .2,",
        ),
        (bank_of_frames(codes, [5]), dict(entries=7, frame_labels={"p": [-1] * 5}), "no row has a label in 'p'"),
    ]:
        with pytest.raises(ValueError, match=message):
            codebook_usage(source, **options)
    tiny = us.load("tiny")
    with pytest.raises(ValueError, match="this checkpoint has no quantizer: only pretraining models"):
        codebook_usage(tiny)
    tiny.quantizer = GumbelVectorQuantizer(tiny.config)
    with pytest.raises(ValueError, match="give a bank, us.collect"):
        codebook_usage(tiny)
    with pytest.raises(ValueError, match="group=2 must be one of the 2 groups"):
        codebook_usage(bank).shares(group=2)
    with pytest.raises(ValueError, match="no column 'accent'"):
        codebook_usage(bank).shares("accent")
