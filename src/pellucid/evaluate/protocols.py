"""How restored and clean pictures are compared, by name: a number without its protocol says nothing."""

from dataclasses import dataclass

from torch import Tensor

from pellucid.data import center_crop
from pellucid.errors import UnknownNameError
from pellucid.registry import unknown_name

DEFAULT = "papers"


@dataclass(frozen=True)
class Protocol:
    """One way of comparing.

    Attributes:
        name: "papers", "papers-y" or "files".
        psnr, ssim: names of the measures that stand as PSNR and SSIM.
        multiple: pictures are cut about their center to multiples of this before all else; 1 leaves them.
        eight_bit: degraded, restored and clean pictures are rounded to 8 bits, as files hold them.
        words: what it does, in a line.
    """

    name: str
    psnr: str
    ssim: str
    multiple: int
    eight_bit: bool
    words: str

    def prepare(self, picture: Tensor) -> Tensor:
        """A picture (3, H, W) as the network sees it, or the clean one as it is compared."""
        return self.finish(center_crop(picture, self.multiple))

    def finish(self, restored: Tensor) -> Tensor:
        """A restored picture in [0, 1] as it is compared."""
        return (restored * 255).round() / 255 if self.eight_bit else restored


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # As the test code of PromptIR, AirNet, DFPIR and their relatives.
        Protocol(
            "papers",
            "psnr_rgb",
            "ssim_rgb",
            16,
            False,
            "RGB, center crop to multiples of 16, output not rounded, means over pictures",
        ),
        Protocol(
            "papers-y",
            "psnr_y",
            "ssim_y",
            16,
            False,
            "Y of BT.601, center crop to multiples of 16, output not rounded, means over pictures",
        ),
        Protocol(
            "files",
            "psnr_rgb",
            "ssim_rgb",
            1,
            True,
            "RGB, whole pictures, all rounded to 8 bits, means over pictures",
        ),
    )
}


def get(name: str) -> Protocol:
    """The protocol called `name`.

    Raises:
        UnknownNameError: there is none; the nearest are offered.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError(unknown_name("protocol", name, list(PROTOCOLS)))
    return PROTOCOLS[name]
