package sshd

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// from is a client's machine, by its address on loopback.
func from(t *testing.T, local, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}, Timeout: 10 * time.Second}
	conn, err := d.DialContext(t.Context(), "tcp", to)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestOneMachineThatConnectsWithoutEndDoesNotLockTheOwnerOut(t *testing.T) {
	l := newLab(t, func(c *Config) { c.MaxUnknown = 4 })
	slow := from(t, "127.0.0.2", l.address) // the owner's, before its handshake
	hello := make([]byte, 4)
	require.NoError(t, slow.SetDeadline(time.Now().Add(10*time.Second)))
	_, err := slow.Read(hello)
	require.NoError(t, err)
	for range 20 {
		_, err := from(t, "127.0.0.3", l.address).Read(hello)
		require.NoError(t, err)
	}
	// What was read is the server's version; the rest of it follows.
	signer, err := ssh.NewSignerFromSigner(l.owner)
	require.NoError(t, err)
	conn, _, _, err := ssh.NewClientConn(&began{slow, hello}, l.address, &ssh.ClientConfig{
		User: "owner", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}

// began is a connection of which something was read already.
type began struct {
	net.Conn
	read []byte
}

func (b *began) Read(p []byte) (int, error) {
	if len(b.read) == 0 {
		return b.Conn.Read(p)
	}
	n := copy(p, b.read)
	b.read = b.read[n:]
	return n, nil
}

func TestListingsThatAreNotClosedAreBounded(t *testing.T) {
	tree, err := openTree([]Directory{{"/data", t.TempDir()}})
	require.NoError(t, err)
	defer tree.close()
	var open []io.Closer
	for range maxOpen {
		l, err := tree.Filelist(&sftp.Request{Method: "List", Filepath: "/data"})
		require.NoError(t, err)
		open = append(open, l.(io.Closer))
	}
	_, err = tree.Filelist(&sftp.Request{Method: "List", Filepath: "/data"})
	require.ErrorIs(t, err, sftp.ErrSSHFxFailure)
	require.NoError(t, open[0].Close())
	require.NoError(t, open[0].Close())
	_, err = tree.Filelist(&sftp.Request{Method: "List", Filepath: "/data"})
	require.NoError(t, err)
	_, err = tree.Filelist(&sftp.Request{Method: "List", Filepath: "/data"})
	require.ErrorIs(t, err, sftp.ErrSSHFxFailure)
}
