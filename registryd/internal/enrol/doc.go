// Package enrol takes TPM machines into the registry, and renews their leases
// (docs/spec/enrolment.md): it opens sealed sessions, judges evidence with
// internal/tpmattest, decides whether a machine is genuine and ours, and writes
// the outcome, its audit entry and its event in one transaction.
//
// The decision, for a machine that is not revoked:
//
//	genuine (chain or vouched) | ours (allow-list, token, approval, member) | outcome
//	---------------------------+--------------------------------------------+---------------------------------
//	chain                      | yes                                        | enrolled, evidence chain
//	EK hash on the allow-list  | by that                                    | enrolled, evidence vouched
//	no                         | token, or approved as it is                | enrolled, evidence unproven_tpm
//	chain                      | no                                         | pending, when the queue takes it
//	no                         | no                                         | refused, or pending with queue all
//
// What was proven once of an EK stays proven: a later enrolment with a weaker
// proof changes nothing, one with a stronger proof is remembered.
//
// It leaves out what operators do (fleet), HTTP (server), and sweeping out what
// is past its time (store).
package enrol
