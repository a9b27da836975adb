"""`dedn data wordvectors --text-model`: names, sentences, and a run on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dedn_jax.cli.main import main
from dedn_jax.data.sources.text_model import embed_texts
from dedn_jax.inference.run import open_run
from tests.helpers.text_models import OUTPUTS, write_text_model
from tests.helpers.tiny import CLASSES, tiny_overrides, write_tiny


@pytest.mark.tokenizers
def test_names_and_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_text_model(tmp_path / "clip", "clip")
    names = tmp_path / "attributes.txt"
    names.write_text("1 has_wing_color::blue\n2 has_bill_length::long_(3_in)\n")
    out = tmp_path / "words.npy"
    command = ["data", "wordvectors", f"--text-model={folder}", f"--out={out}"]
    assert main([*command, f"--attributes={names}", "--prompt=a bird with {}"]) == 0
    printed = capsys.readouterr().out
    assert f"Wrote {out}: 2 vectors of {OUTPUTS}" in printed
    assert "The first text was 'a bird with wing color blue'" in printed
    texts = ["a bird with wing color blue", "a bird with bill length long"]
    np.testing.assert_array_equal(np.load(out), embed_texts(folder, texts))

    sentences = tmp_path / "classes.txt"
    lines = [f"A bird with a {'long ' * (k % 3)}{'blue ' * (k // 3)}wing" for k in range(CLASSES)]
    sentences.write_text("\n".join(lines) + "\n")
    assert main([*command, f"--sentences={sentences}"]) == 0
    np.testing.assert_array_equal(np.load(out), embed_texts(folder, lines))
    flags = tiny_overrides(
        write_tiny(tmp_path / "maps.hdf5"), data__groups="single", selection__protocol="last"
    )
    flags.append(f"--config.data.class_embeddings={out}")
    assert main(["train", "--config=base", *flags, f"--workdir={tmp_path}/run"]) == 0
    assert open_run(tmp_path / "run").dataset.class_embeddings.shape == (CLASSES, OUTPUTS)
