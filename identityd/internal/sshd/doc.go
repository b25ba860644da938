// Package sshd is the owner's temporary way into his container: an SSH server
// (RFC 4251 to 4254) for one key, which can be closed for good.
//
// Sessions are a shell or a command in the container, with or without a
// terminal, and SFTP (draft-ietf-secsh-filexfer-02) for copying files. SFTP
// reaches the persisted directories and nothing else: they appear under the
// paths that they have in the container, everything above them is empty and
// cannot be written, and symbolic links never lead out of them. It works
// whether or not the workload runs, and in images without any program for it.
//
// Left out on purpose: every method of authentication but the owner's Ed25519
// key; certificates; forwarding of ports, sockets, agents and X11; links,
// changes of ownership and setuid bits by SFTP; the older scp protocol (scp of
// OpenSSH 9 uses SFTP).
package sshd
