"""Budgets for blocks, admitted operations, and smaller plans when memory is short."""
