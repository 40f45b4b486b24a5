"""Which results of a step other steps of the same Dagster run wait for.

What nobody waits for need not be an output of the step; how results look is in ``events.py``.
"""

from __future__ import annotations

import dagster as dg

Key = dg.AssetKey | dg.AssetCheckKey


def consumed_outputs(context: dg.OpExecutionContext) -> frozenset[Key]:
    """Return the step's assets, and its blocking checks, that another step of this run needs.

    Of a step inside a graph all are returned: who needs them is not told there.
    """
    assets = context.assets_def
    keys: dict[str, Key] = {
        **assets.keys_by_output_name,
        **{name: spec.key for name, spec in assets.check_specs_by_output_name.items()},
    }
    if context.node_handle.parent is not None:
        return frozenset(keys.values())
    running = context.run.step_keys_to_execute
    used = {
        source.output
        for node, inputs in context.job_def.graph.dependencies.items()
        if running is None or (node.alias or node.name) in running
        for dependency in inputs.values()
        for source in dependency.get_node_dependencies()
        if source.node == context.node_handle.name
    }
    return frozenset(key for name, key in keys.items() if name in used)
