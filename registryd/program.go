package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/daemon"
	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/internal/tdx/collateral"
	"github.com/telemark-otel/telemark/registryd/internal/auth"
	"github.com/telemark-otel/telemark/registryd/internal/config"
	"github.com/telemark-otel/telemark/registryd/internal/ekroots"
	"github.com/telemark-otel/telemark/registryd/internal/enrol"
	"github.com/telemark-otel/telemark/registryd/internal/fleet"
	"github.com/telemark-otel/telemark/registryd/internal/instance"
	"github.com/telemark-otel/telemark/registryd/internal/metrics"
	"github.com/telemark-otel/telemark/registryd/internal/pcrpolicy"
	"github.com/telemark-otel/telemark/registryd/internal/server"
	"github.com/telemark-otel/telemark/registryd/internal/signkey"
	"github.com/telemark-otel/telemark/registryd/internal/store"
	"github.com/telemark-otel/telemark/registryd/internal/tlsfiles"
)

// program is a registry with all its parts.
type program struct {
	config  *config.Config
	logger  *zap.Logger
	key     ed25519.PrivateKey
	store   *store.DB
	quotes  *collateral.Verifier // nil with verification switched off
	enrol   *enrol.Service
	server  *server.Server
	metrics *metrics.Metrics
	tls     *tlsfiles.Files // nil without TLS
	off     []string

	roots *ekroots.Set // of keepHouse's goroutine, once it runs
}

// open puts the parts together. What the configuration says wrong is found
// before anything is written.
func open(ctx context.Context, c *config.Config, logger *zap.Logger) (_ *program, err error) {
	p := &program{config: c, logger: logger, metrics: metrics.New()}
	var file *auth.File
	if c.AuthFile != "" {
		if file, err = auth.Load(c.AuthFile); err != nil {
			return nil, err
		}
	}
	who := auth.New(file)
	if c.TLS() {
		if p.tls, err = tlsfiles.Open(c.TLSCert, c.TLSKey, c.ClientCA); err != nil {
			return nil, err
		}
	}
	if p.roots, err = ekroots.Load(c.EKRoots); err != nil {
		return nil, err
	}
	pcrs, err := pcrpolicy.Load(c.PCRPolicy)
	if err != nil {
		return nil, err
	}
	policies, err := tdxPolicies(c)
	if err != nil {
		return nil, err
	}
	dsn, err := c.DSN()
	if err != nil {
		return nil, err
	}
	if err := p.openKey(); err != nil {
		return nil, err
	}
	signer, err := answer.NewSigner(p.key)
	if err != nil {
		return nil, daemon.Failed(err)
	}
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := p.openStore(starting, dsn, signer); err != nil {
		return nil, daemon.Failed(err)
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if err := p.openServices(signer, who, policies, pcrs); err != nil {
		return nil, err
	}
	for _, what := range p.off {
		logger.Warn("Switched off.", zap.String("what", what))
	}
	return p, nil
}

// openServices puts the rules and the server over the store.
func (p *program) openServices(signer *answer.Signer, who *auth.Auth, policies *tdx.Policies, pcrs *enrol.PCRPolicy) error {
	c := p.config
	seal, err := signkey.SealKey(p.key)
	if err != nil {
		return daemon.Failed(err)
	}
	if !c.SkipTDXAuth {
		if p.quotes, err = openQuotes(c, policies, p.store, p.logger.Named("collateral")); err != nil {
			return err
		}
	}
	p.enrol, err = enrol.New(enrol.Options{
		Store: p.store, SealKey: seal, Roots: p.roots.Roots, Intermediates: p.roots.Intermediates,
		Lease: c.Lease, Queue: enrol.Queue(c.Queue), PCRs: pcrs, Logger: p.logger.Named("enrol"),
	})
	if err != nil {
		return daemon.Failed(err)
	}
	machines, err := fleet.New(fleet.Options{Store: p.store, Signer: signer, SealKey: seal, Logger: p.logger.Named("fleet")})
	if err != nil {
		return daemon.Failed(err)
	}
	o := instance.Options{
		Store: p.store, SealKey: seal, Lease: c.Lease, RequireV1: c.RequireV1,
		AllowEncryptedPPID: c.AllowEncryptedPPID, Signer: signer, Logger: p.logger.Named("instance"),
	}
	if p.quotes != nil {
		o.Quotes = p.quotes
	}
	instances, err := instance.New(o)
	if err != nil {
		return daemon.Failed(err)
	}
	p.off = switchedOff(c, who)
	options := server.Options{
		Enrolment: p.enrol, Instances: instances, Fleet: machines, Store: p.store, Signer: signer,
		Metrics: p.metrics, PublicKey: signer.Public(), Off: p.off, Version: daemon.Version(version), Collateral: collateralCheck(c),
		RequireAuth: c.RequireAuth, Proxies: c.Proxies(), PerAddress: c.PerAddress(), PerKey: c.PerKey(), RateTable: c.RateTable,
		MaxVerifications: c.MaxVerifications, MaxStreams: c.MaxStreams, Logger: p.logger.Named("server"),
	}
	if p.tls != nil {
		options.Vouched = p.tls.VouchesFor
	}
	p.server = server.New(options)
	p.server.SetAuth(who)
	return nil
}

func (p *program) close() {
	if p.quotes != nil {
		p.quotes.Close()
	}
	if p.store != nil {
		if err := p.store.Close(); err != nil {
			p.logger.Error("The store could not be closed.", zap.Error(err))
		}
	}
}

func (p *program) openKey() error {
	key, created, err := signkey.LoadOrCreate(p.config.KeyFile)
	if err != nil {
		return err
	}
	p.key = key
	if created {
		p.logger.Warn("A new signing key was made. Pin its public half at the verifiers, keep a copy of the key, and give it to all replicas.",
			zap.String("file", p.config.KeyFile), zap.String("pin", p.config.KeyFile+".pub"))
	}
	return nil
}

// auditTTL is how long the signed head in the store can be verified: as long as
// anybody keeps the log.
const auditTTL = 100 * 365 * 24 * time.Hour

func (p *program) openStore(ctx context.Context, dsn string, signer *answer.Signer) error {
	db, err := store.Open(ctx, dsn, store.Options{
		Logger: p.logger.Named("store"),
		Sign: func(seq uint64, hash []byte, at time.Time) ([]byte, error) {
			at = at.UTC()
			// Nothing is appended before Open returned.
			return signer.Sign(answer.KindAuditHead, &answer.AuditHead{
				Head: answer.Head{Store: p.store.ID(), IssuedAt: at, NotAfter: at.Add(auditTTL)}, Seq: seq, Hash: hash,
			})
		},
	})
	if err != nil {
		return err
	}
	p.store = db
	if err := p.bindKey(ctx); err != nil {
		return errors.Join(err, db.Close())
	}
	return nil
}

// The name of the value that holds the fingerprint of the key that a store is
// written under.
const keyValue = "registry-key"

// bindKey refuses a key that is not the store's: a replica with one of its own
// would answer what no verifier believes, and could not read what others sealed.
func (p *program) bindKey(ctx context.Context) error {
	own, err := signkey.Fingerprint(p.key)
	if err != nil {
		return err
	}
	var found []byte
	err = p.store.Update(ctx, func(tx *store.Tx) error {
		found, err = tx.Value(keyValue)
		switch {
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return err
		case err == nil && (bytes.Equal(found, []byte(own)) || !p.config.ReplaceKey):
			return nil
		}
		found = []byte(own)
		return tx.PutValue(keyValue, found)
	})
	switch {
	case err != nil:
		return fmt.Errorf("compare the signing key with the store's: %w", err)
	case !bytes.Equal(found, []byte(own)):
		return fmt.Errorf("the store is written under the signing key %.16s…, and %s holds %.16s…: give all replicas the same --key-file; "+
			"if the old key is lost, --replace-key goes on with this one (verifiers have to pin it, and join tokens are void)", found, p.config.KeyFile, own)
	}
	return nil
}

// switchedOff names what protects and is not there.
func switchedOff(c *config.Config, who *auth.Auth) []string {
	var off []string
	add := func(is bool, what string) {
		if is {
			off = append(off, what)
		}
	}
	add(c.SkipTDXAuth, "tdx_verification: SKIP_TDX_AUTH is set, quotes are not verified")
	add(c.TDXRoots != "" && !c.SkipTDXAuth, "tdx_intel_root: --tdx-roots is trusted instead of Intel's root")
	add(!c.TLS(), "tls: requests come over plain HTTP")
	add(!who.Anybody(auth.Admin), "roles: nobody may administer this registry, there is no admin in the auth file")
	add(c.EKRoots == "", "ek_roots: no EK certificate is trusted, a TPM is genuine only by an imported hash")
	add(c.AllowEncryptedPPID, "ppid: quotes whose PPID nothing proves are accepted")
	add(c.PerAddress().IsZero(), "rate_address: clients are not limited")
	add(c.PerKey().IsZero(), "rate_key: requests about one key are not limited")
	return off
}
