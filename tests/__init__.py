"""Laws over the catalogue of mappings, then what is particular to each folder."""
