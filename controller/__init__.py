"""The control plane: keeps the replicas that ought to exist in existence.

====== =====================================================================================
hears  `service` (gRPC) → `targets` what is wanted, `events` what happens to replicas,
       `scaling` what the load asks for; each puts applications into the `queue`
knows  `registry`: applications (`state`) and replicas (`replica`); `recovery` fills it again
stores `store` and `sqlite`, and `packages` for files
decide `plan`, `autoscale` (or a user's `policy`), `resources` (`room` keeps its ledger) and
       `tickets`, over the values of `model`; `routes` who takes which route prefix
act    `reconciler` takes the turns, `actuator` carries out, through `serving.engine`
tells  `published` → `publisher` (Watch); `status` → `statuses`, `journal`; `inspection`
====== =====================================================================================
"""
