"""An experiment on many devices: meshes, sharding rules, sharded embedding tables, multi-host start-up."""
