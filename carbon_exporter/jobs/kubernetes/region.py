"""Which region of which cloud a node says that it is in. Set by the cloud's controller manager:

https://kubernetes.io/docs/reference/labels-annotations-taints/#topologykubernetesioregion
"""

import logging
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from carbon_exporter.jobs.kubernetes.api import Api, ApiError

LABEL: Final = "topology.kubernetes.io/region"
CLOUDS: Final[Mapping[str, str]] = {"aws": "aws", "gce": "gcp", "azure": "azure"}
"""Scheme of spec.providerID -> cloud."""
_log = logging.getLogger(__name__)


def node_region(api: Api, node_name: str) -> str | None:
    """The region of a node, such as "aws/eu-central-1".

    None where it is in no cloud that is known, or where the API server does not tell: get on nodes is a courtesy.
    """
    try:
        node = api.get(f"/api/v1/nodes/{quote(node_name, safe='')}", {})
    except ApiError as error:
        _log.debug("no region: %s", error)
        return None
    region = _text(node, "metadata", "labels", LABEL)
    cloud = CLOUDS.get(_text(node, "spec", "providerID").partition("://")[0])
    return f"{cloud}/{region}" if cloud and region else None


def _text(document: Any, *keys: str) -> str:
    """What stands under the keys; "" where that is no text."""
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document if isinstance(document, str) else ""
