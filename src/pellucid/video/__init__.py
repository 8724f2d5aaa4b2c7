"""Films: frames through a restorer, everything else as it was (extra `video`, PyAV).

`restore_video` streams a film's frames, restores them shot by shot, and writes segments, from which it goes
on after a kill; at the end they are joined without encoding anew, beside the packets of sound and subtitles.
"""

from pellucid.video.container import READABLE_SUFFIXES, WRITABLE_SUFFIXES
from pellucid.video.run import VideoReport, restore_video

__all__ = ["READABLE_SUFFIXES", "WRITABLE_SUFFIXES", "VideoReport", "restore_video"]
