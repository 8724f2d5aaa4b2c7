"""Picture files and bytes to `ImageBuffer` and back, through libvips.

Reading: format and size are checked from the header before anything is decoded, orientation is applied,
alpha is split off, and depth, mode, profile and metadata are remembered. Writing: the same depth, mode,
alpha, profile and metadata, as far as the target's format holds them, under a temporary name that is then
renamed. A picture whose pixels were not changed comes back with the same samples from lossless formats.
`docs/images.md` says what survives where.
"""

from pellucid.image_io._formats import BY_SUFFIX, IMAGE_SUFFIXES, SUFFIX
from pellucid.image_io._read import (
    Header,
    Limits,
    decode_header,
    decode_image,
    file_state,
    read_header,
    read_image,
)
from pellucid.image_io._strip import CUT, Strip, check_strip, strip_file, strip_image
from pellucid.image_io._write import (
    check_format,
    check_writable,
    copy_image,
    encode_image,
    link_image,
    move_file,
    read_bytes,
    remove_leftovers,
    target_path,
    write_bytes,
    write_image,
)

__all__ = [
    "BY_SUFFIX",
    "CUT",
    "IMAGE_SUFFIXES",
    "SUFFIX",
    "Header",
    "Limits",
    "Strip",
    "check_format",
    "check_strip",
    "check_writable",
    "copy_image",
    "decode_header",
    "decode_image",
    "encode_image",
    "file_state",
    "link_image",
    "move_file",
    "read_bytes",
    "read_header",
    "read_image",
    "remove_leftovers",
    "strip_file",
    "strip_image",
    "target_path",
    "write_bytes",
    "write_image",
]
