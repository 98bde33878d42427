"""Everything that runs Correio somewhere: the local stack, containers, units, dashboards."""
