"""Workflows: graphs of jobs, kept in the ledger as records and released as their nodes end."""
