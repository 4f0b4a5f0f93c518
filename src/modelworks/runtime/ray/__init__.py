"""A Ray cluster as nodes: one bridge process beside the platform, one door (an actor) on each node.

::

    controller ─ AgentClient ─► run/nodes/<node>.sock ─ bridge ─ Ray ─► door (actor) ─► agent.sock ─ agent ─ shims
                 BridgeClient ► run/bridge.sock

``bridge`` and ``cluster`` run beside the platform and are the only ones that import ray; ``door`` and ``host`` run on
the nodes; ``bridge_client`` and ``reservations`` are the controller's side. The agent is the same as on one machine, a
process of its own: neither the end of a door nor that of a raylet ends it or what it attends to.
"""
