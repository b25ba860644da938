// Package swtpm runs the software TPM swtpm as a child process. The child
// talks over a socket pair, so that nobody else can reach it, no socket path
// can be too long, and it ends by itself when its parent is gone. What a
// directory holds:
//
//	lock             locked while an owner, or the child it started, lives
//	tpm2-00.permall  the TPM's state, written by swtpm
//	swtpm.log        what swtpm has to say
//	ca/              the certificate authority that signed the EK certificates
//
// Left out: TPM 1.2, encrypted state, migration, swtpm's control channel.
package swtpm
