package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/registry/admin"
	"github.com/telemark-otel/telemark/internal/registry/answer"
)

const keysLong = `Write every key that the registry knows as a key file: for a collector that
cannot reach a registry (tpmverify, keys::file), and to verify an archive
months later (telemark receipt inspect --keys). Revoked and superseded keys are
in it, and say so.

What the registry answers is checked against its public key, --pin.`

// keyFile is what a key file holds; the entries are written as they were signed.
type keyFile struct {
	Keys []json.RawMessage `json:"keys"`
}

func newFleetKeys(c *connection) *cobra.Command {
	var pin string
	cmd := &cobra.Command{
		Use:     "keys --pin REGISTRY.PUB",
		Short:   "Write all keys as a key file",
		Long:    keysLong,
		Example: "  telemark fleet keys --pin registry.pub > keys.json\n  telemark receipt inspect --summary --keys keys.json archive/*.jsonl",
		Args:    cobra.NoArgs,
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, _ []string) error {
			verifier, err := readPin(pin)
			if err != nil {
				return err
			}
			file, err := allKeys(cmd.Context(), registry, verifier)
			if err != nil {
				return err
			}
			say(cmd.ErrOrStderr(), "%s", count(len(file.Keys), "key"))
			return writeJSON(cmd.OutOrStdout(), file)
		}),
	}
	cmd.Flags().StringVar(&pin, "pin", "", "file with the registry's public key")
	return cmd
}

// readPin reads the registry's public key.
func readPin(name string) (*answer.Verifier, error) {
	if name == "" {
		return nil, errors.New("--pin is needed, the registry's public key as `registryd key show` prints it: without it anybody's word is taken")
	}
	pinned, err := readBounded(name, maxPin)
	if err != nil {
		return nil, work(fmt.Errorf("--pin: %w", err))
	}
	verifier, err := answer.NewVerifier(pinned)
	if err != nil {
		return nil, work(fmt.Errorf("--pin: %s: %w", name, err))
	}
	return verifier, nil
}

func allKeys(ctx context.Context, registry *admin.Client, verifier *answer.Verifier) (*keyFile, error) {
	file := &keyFile{Keys: []json.RawMessage{}}
	for since := uint64(0); ; {
		nonce := make([]byte, 32)
		_, _ = rand.Read(nonce) // never fails
		signed, err := registry.Snapshot(ctx, since, nonce)
		if err != nil {
			return nil, answered(err)
		}
		var page answer.Snapshot
		if err := verifier.Open(answer.KindSnapshot, signed, &page); err != nil {
			return nil, refuse("%v", err)
		}
		if !bytes.Equal(page.Nonce, nonce) || page.Since != since || (page.More && page.Through <= since) {
			return nil, refuse("the registry's answer was made for another request")
		}
		for i := range page.Records {
			if len(page.Records[i].Entry) > 0 {
				file.Keys = append(file.Keys, page.Records[i].Entry)
			}
		}
		if !page.More {
			return file, nil
		}
		since = page.Through
	}
}
