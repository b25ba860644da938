package main

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/internal/tdx/collateral"
	"github.com/telemark-otel/telemark/registryd/internal/config"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// tdxPolicies reads --tdx-policy; nil without.
func tdxPolicies(c *config.Config) (*tdx.Policies, error) {
	if c.TDXPolicy == "" {
		return nil, nil
	}
	info, err := os.Stat(c.TDXPolicy)
	if err != nil {
		return nil, fmt.Errorf("--tdx-policy: %w", err)
	}
	if info.Size() > tdx.MaxPolicyFile {
		return nil, fmt.Errorf("--tdx-policy %s is larger than %d bytes", c.TDXPolicy, tdx.MaxPolicyFile)
	}
	content, err := os.ReadFile(c.TDXPolicy)
	if err != nil {
		return nil, fmt.Errorf("--tdx-policy: %w", err)
	}
	p, err := tdx.ParsePolicies(content)
	if err != nil {
		return nil, fmt.Errorf("--tdx-policy %s: %w", c.TDXPolicy, err)
	}
	return p, nil
}

func openQuotes(c *config.Config, policies *tdx.Policies, db *store.DB, logger *zap.Logger) (*collateral.Verifier, error) {
	o := collateral.Options{
		AllowEncryptedPPID: c.AllowEncryptedPPID, Policies: policies, Dir: c.CollateralCache, Floors: floors{db}, Logger: logger,
	}
	if c.CollateralDir != "" {
		o.Source = collateral.Bundle{Dir: c.CollateralDir}
	} else {
		service, err := collateral.NewService(c.PCCSURL, nil)
		if err != nil {
			return nil, fmt.Errorf("--pccs-url: %w", err)
		}
		o.Source = service
	}
	if c.TDXRoots != "" {
		pem, err := os.ReadFile(c.TDXRoots)
		if err != nil {
			return nil, fmt.Errorf("--tdx-roots: %w", err)
		}
		o.Roots = x509.NewCertPool()
		if !o.Roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--tdx-roots %s holds no certificate", c.TDXRoots)
		}
	}
	return collateral.New(o)
}

// floors keeps collateral.Floors in the store, for all replicas.
type floors struct{ db *store.DB }

const floorPrefix = "collateral-floor:"

// Floor implements collateral.Floors.
func (f floors) Floor(ctx context.Context, name string) (n uint64, err error) {
	err = f.db.View(ctx, func(tx *store.Tx) error {
		n, err = floor(tx, name)
		return err
	})
	return n, err
}

func floor(tx *store.Tx, name string) (uint64, error) {
	value, err := tx.Value(floorPrefix + name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case len(value) != 8:
		return 0, fmt.Errorf("floor of %.64q has %d bytes", name, len(value))
	default:
		return binary.BigEndian.Uint64(value), nil
	}
}

// Raise implements collateral.Floors.
func (f floors) Raise(ctx context.Context, marks map[string]uint64) error {
	// Most of the time there is nothing to write, and writers take turns.
	rises := false
	for name, mark := range marks {
		n, err := f.Floor(ctx, name)
		if err != nil {
			return err
		}
		rises = rises || mark > n
	}
	if !rises {
		return nil
	}
	return f.db.Update(ctx, func(tx *store.Tx) error {
		for name, mark := range marks {
			n, err := floor(tx, name)
			if err != nil {
				return err
			}
			if mark <= n {
				continue
			}
			if err := tx.PutValue(floorPrefix+name, binary.BigEndian.AppendUint64(nil, mark)); err != nil {
				return err
			}
		}
		return nil
	})
}

// collateralCheck is the part of /ready about collateral, where the operator
// said where it comes from. Intel's own service is not asked: a registry that
// has only TPM machines does without.
func collateralCheck(c *config.Config) func(context.Context) error {
	switch {
	case c.SkipTDXAuth:
		return nil
	case c.CollateralDir != "":
		return func(context.Context) error {
			f, err := os.Open(filepath.Join(c.CollateralDir, "rootcrl.der"))
			if err != nil {
				return fmt.Errorf("bundle of collateral: %w", err)
			}
			return f.Close()
		}
	case c.PCCSURL != "":
		return func(ctx context.Context) error { return dial(ctx, c.PCCSURL) }
	default:
		return nil
	}
}

// dial reports whether somebody listens where a URL points.
func dial(ctx context.Context, at string) error {
	u, err := url.Parse(at)
	if err != nil {
		return fmt.Errorf("service for collateral: %w", err)
	}
	port := u.Port()
	if port == "" {
		port = u.Scheme // net knows http and https as names of services
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return fmt.Errorf("service for collateral: %w", err)
	}
	return conn.Close()
}
