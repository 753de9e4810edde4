"""The groups of checks, one module each; a group yields its checks one by one."""
