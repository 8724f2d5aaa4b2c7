"""What a network saw in a picture and did to it, as numbers and as one figure.

`change` tells where and how much the picture changed, and its spectrum before and after, for any network;
`routing` which experts a DaAIR chose, for one picture or a data set; `prompts` what the prompts of a DFPIR do
differently. All look through hooks, in the precision of a restoration. While they look, pictures beyond a
megapixel are cut into tiles, since hooks don't see strips. `figure` draws it.
"""

from pellucid.explain.figure import draw_explanation, draw_routing_table
from pellucid.explain.pictures import Explanation, explain_picture
from pellucid.explain.routing import RoutingTable, explain_folders, explain_shards

__all__ = [
    "Explanation",
    "RoutingTable",
    "draw_explanation",
    "draw_routing_table",
    "explain_folders",
    "explain_picture",
    "explain_shards",
]
