"""Laws over the catalogue of mappings, and the tests of each folder."""
