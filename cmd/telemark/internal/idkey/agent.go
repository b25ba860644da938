package idkey

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// agentSigner has an agent sign.
type agentSigner struct {
	agent  agent.Agent
	key    *agent.Key
	public ed25519.PublicKey
}

func (s *agentSigner) Public() crypto.PublicKey { return s.public }

func (s *agentSigner) Sign(_ io.Reader, message []byte, o crypto.SignerOpts) ([]byte, error) {
	if o.HashFunc() != 0 {
		return nil, errors.New("Ed25519 signs messages, not hashes")
	}
	signature, err := s.agent.Sign(s.key, message)
	if err != nil {
		return nil, fmt.Errorf("the ssh-agent does not sign: %w", err)
	}
	if signature.Format != ssh.KeyAlgoED25519 || len(signature.Blob) != ed25519.SignatureSize {
		return nil, fmt.Errorf("the ssh-agent signed with %.32q", signature.Format)
	}
	return signature.Blob, nil
}

func openAgent(s Source) (*Key, error) {
	if s.Socket == "" {
		return nil, errors.New("no ssh-agent is running (SSH_AUTH_SOCK is empty)")
	}
	conn, err := net.Dial("unix", s.Socket)
	if err != nil {
		return nil, fmt.Errorf("call the ssh-agent: %w", err)
	}
	client := agent.NewClient(conn)
	signer, err := find(client, s.Agent)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &Key{Signer: signer, close: conn}, nil
}

// find looks for the one Ed25519 key of this fingerprint or comment.
func find(client agent.Agent, name string) (*agentSigner, error) {
	keys, err := client.List()
	if err != nil {
		return nil, fmt.Errorf("list the ssh-agent's keys: %w", err)
	}
	var found *agentSigner
	for _, k := range keys {
		if k.Type() != ssh.KeyAlgoED25519 || ssh.FingerprintSHA256(k) != name && k.Comment != name {
			continue
		}
		parsed, err := ssh.ParsePublicKey(k.Marshal())
		if err != nil {
			return nil, fmt.Errorf("read a key of the ssh-agent: %w", err)
		}
		general, ok := parsed.(ssh.CryptoPublicKey)
		if !ok {
			return nil, errKind
		}
		public, ok := general.CryptoPublicKey().(ed25519.PublicKey)
		if !ok {
			return nil, errKind
		}
		if found != nil {
			return nil, fmt.Errorf("the ssh-agent has several keys %.64q: name one by its fingerprint (ssh-add -l)", name)
		}
		found = &agentSigner{client, k, public}
	}
	if found == nil {
		return nil, fmt.Errorf("the ssh-agent has no Ed25519 key %.64q; ssh-add -l lists fingerprints and comments", name)
	}
	return found, nil
}
