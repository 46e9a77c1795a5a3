"""Price lists, as data: dated and sourced files, what is read from them, and what a usage costs by them."""
