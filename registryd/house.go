package main

import (
	"context"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/registryd/internal/auth"
	"github.com/telemark-otel/telemark/registryd/internal/ekroots"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

const (
	sweepEvery   = time.Minute
	statsEvery   = 10 * time.Second
	rootsEvery   = 10 * time.Second
	keepPending  = 30 * 24 * time.Hour // machines that nobody approved
	keepEvents   = 10_000
	houseTimeout = 30 * time.Second
)

// keepHouse deletes from the store what is past its time, and counts what is
// there for metrics.
func (p *program) keepHouse(ctx context.Context) {
	sweep, stats := time.NewTicker(sweepEvery), time.NewTicker(statsEvery)
	defer sweep.Stop()
	defer stats.Stop()
	p.count(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-stats.C:
			p.count(ctx)
		case <-sweep.C:
			now := time.Now()
			limited, cancel := context.WithTimeout(ctx, houseTimeout)
			err := p.store.Sweep(limited, now, now.Add(-keepPending), keepEvents)
			cancel()
			if err != nil && ctx.Err() == nil {
				p.logger.Warn("The store could not be swept.", zap.Error(err))
			}
		}
	}
}

func (p *program) count(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, houseTimeout)
	defer cancel()
	var s store.Stats
	err := p.store.View(ctx, func(tx *store.Tx) (err error) {
		s, err = tx.Stats()
		return err
	})
	if err != nil {
		p.metrics.SetStats(nil)
		return
	}
	p.metrics.SetStats(&s)
}

// reloadOnChange reads files again: all on a SIGHUP, EK roots also by themselves,
// since directories of certificates are kept by other tools.
func (p *program) reloadOnChange(ctx context.Context, hangup <-chan os.Signal) {
	roots := time.NewTicker(rootsEvery)
	defer roots.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-roots.C:
			p.reloadRoots(false)
		case <-hangup:
			p.reloadRoots(true)
			// Before who is who: it ends the streams, and they come back at once.
			p.reloadTLS()
			p.reloadAuth()
			p.reloadPolicies()
		}
	}
}

// reloadRoots keeps the old certificates when the new ones cannot be read.
func (p *program) reloadRoots(asked bool) {
	if p.config.EKRoots == "" {
		return
	}
	set, err := ekroots.Load(p.config.EKRoots)
	if err != nil {
		p.logger.Error("EK roots could not be read again; the ones from before stay.", zap.Error(err))
		return
	}
	if p.roots.Same(set) && !asked {
		return
	}
	p.roots = set
	p.enrol.SetRoots(set.Roots, set.Intermediates)
	p.logger.Info("EK roots were read again.", zap.Int("roots", set.NumRoots), zap.Int("intermediates", set.NumIntermediates))
}

func (p *program) reloadAuth() {
	if p.config.AuthFile == "" {
		return
	}
	file, err := auth.Load(p.config.AuthFile)
	if err != nil {
		p.logger.Error("The auth file could not be read again; what it said before holds.", zap.Error(err))
		p.server.Reauthenticate()
		return
	}
	p.server.SetAuth(auth.New(file))
	p.logger.Info("The auth file was read again; event streams begin anew.")
}

func (p *program) reloadTLS() {
	if p.tls == nil {
		return
	}
	if err := p.tls.Reload(); err != nil {
		p.logger.Error("Certificates could not be read again; the ones from before stay.", zap.Error(err))
		return
	}
	p.logger.Info("Certificates were read again.")
}

func (p *program) reloadPolicies() {
	if p.quotes == nil || p.config.TDXPolicy == "" {
		return
	}
	policies, err := tdxPolicies(p.config)
	if err != nil {
		p.logger.Error("The TDX policy could not be read again; what it said before holds.", zap.Error(err))
		return
	}
	p.quotes.SetPolicies(policies)
	p.logger.Info("The TDX policy was read again.")
}
