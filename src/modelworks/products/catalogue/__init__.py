"""Names that others use: environments and instance types, shipped, of the settings, and of a workspace."""
