"""Addresses of one dashboard with a thing of another's selected. Names are encoded: a job may be called "a/b&c"."""

from typing import Final

_WITH: Final = "${datasource:queryparam}&${cluster:queryparam}&${__url_time_range}"
TO_JOB: Final = f"/d/carbon-training-job?var-training_job=${{__data.fields.training_job:percentencode}}&{_WITH}"
TO_NODE: Final = f"/d/carbon-nodes?var-instance=${{__data.fields.instance:percentencode}}&{_WITH}"
TO_ZONE: Final = f"/d/carbon-grid?var-grid_zone=${{__data.fields.grid_zone:percentencode}}&{_WITH}"
