"""The data sets of the field as people have them on disk, and checks of folders against them.

Each `.toml` file here is the manifest of one data set: origin, license, citation, what the field knows of its
splits, and the layouts in which projects keep it. `pellucid.datasets.verify` holds a folder against a
manifest, `pellucid.datasets.leak` finds test pictures among training pictures. Nothing here downloads.
"""

from pellucid.datasets._manifest import Layout, Manifest, Split, load_manifest, names, parse_manifest

__all__ = ["Layout", "Manifest", "Split", "load_manifest", "names", "parse_manifest"]
