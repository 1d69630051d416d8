"""Three scalar functions × two reductions: everything the rest of the library is made of."""
