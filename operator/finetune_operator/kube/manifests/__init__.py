"""Every object that the operator makes on a cluster, as plain data. Pure: nothing is asked or sent.

A job's own words reach an object only through the typed fields of its contract; what a pod may do
is constant.
"""

from typing import Any

Manifest = dict[str, Any]
"""An object as the API server takes it: JSON, which has no narrower type."""
