"""The control plane: keeps the replicas that ought to exist in existence.

====== =====================================================================================
hears  `service` (gRPC) → `targets` what is wanted, `events` what happens to replicas,
       `scaling` what the load asks for; each puts applications into the `queue`
knows  `registry`: applications (`state`) and replicas (`replica`); `recovery` fills it again
stores `store` and `sqlite`
decide `plan`, `autoscale` and `resources` (`room` keeps its ledger), over the values of `model`
act    `reconciler` takes the turns, `actuator` carries out, through `serving.engine`
tells  `published` → `publisher` (Watch); `status` → `statuses`, `journal`
====== =====================================================================================
"""
