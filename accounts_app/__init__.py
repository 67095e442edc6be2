"""Who: accounts, users, their roles and tokens, and what each may see."""
