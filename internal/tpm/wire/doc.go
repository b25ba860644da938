// Package wire carries whole TPM commands and answers over a character device
// or a stream socket (TCG TPM 2.0 Library Specification, part 1, section 18:
// the header of commands and responses). It knows lengths and time-outs and nothing of what
// the commands mean. Left out: the framing of the Microsoft simulator,
// localities and the control channel of swtpm.
package wire
