// Package stack runs the distribution on one machine, for development: a registry,
// a collector, a gateway and agents with software TPMs, as the processes that
// they are anywhere else, with the shipped configurations.
//
//	DIR/                 kept from one start to the next
//	├── certs/           authority, certificates, tokens (made by the caller)
//	├── registry/        database, signing key, auth.yaml, tokens
//	├── collector/ gateway/ edge-1/ …   state, and log.jsonl of each process
//	├── archive/         the evidence
//	└── configs/         the shipped configurations as they run
package stack
