import pytest
import torch

from pellucid import metrics
from pellucid.errors import UnknownNameError
from pellucid.evaluate import protocols


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_every_protocol_names_measures_that_exist(name):
    protocol = protocols.get(name)
    assert protocol.name == name
    assert metrics.get(protocol.psnr).unit == "dB"
    assert metrics.get(protocol.ssim).best == 1


def test_papers_crop_about_the_center_and_do_not_round():
    picture = torch.rand(3, 37, 50)
    assert torch.equal(protocols.get("papers").prepare(picture), picture[:, 2:34, 1:49])
    assert torch.equal(protocols.get("papers").finish(picture), picture)


def test_files_keep_the_size_and_round():
    picture = torch.tensor([0.0, 0.001, 0.0021, 0.5, 1.0]).view(1, 1, 5).expand(3, 37, 5)
    found = protocols.get("files").prepare(picture)
    assert (found[0, 0] * 255).tolist() == pytest.approx([0, 0, 1, 128, 255])
    assert found.shape == picture.shape


def test_an_unknown_protocol_gets_a_suggestion():
    with pytest.raises(UnknownNameError, match=r"no protocol called 'papers_y'\. Did you mean papers-y"):
        protocols.get("papers_y")
