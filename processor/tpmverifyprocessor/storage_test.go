package tpmverifyprocessor

import (
	"context"
	"errors"
	"testing"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/telemark-otel/telemark/internal/replay"
)

// openStorage starts a real file_storage over dir.
func openStorage(t testing.TB, dir string) (storage.Extension, func()) {
	t.Helper()
	f := filestorage.NewFactory()
	cfg := f.CreateDefaultConfig().(*filestorage.Config)
	cfg.Directory = dir
	cfg.FSync = true
	ext, err := f.Create(t.Context(), extensiontest.NewNopSettings(f.Type()), cfg)
	require.NoError(t, err)
	require.NoError(t, ext.Start(t.Context(), componenttest.NewNopHost()))
	return ext.(storage.Extension), func() {
		require.NoError(t, ext.Shutdown(context.WithoutCancel(t.Context())))
	}
}

// onStorage keeps replay windows in a storage client, as the nonce extension does.
type onStorage struct{ client storage.Client }

func (s onStorage) Get(ctx context.Context, keys []string) ([][]byte, error) {
	out := make([][]byte, len(keys))
	for i, k := range keys {
		v, err := s.client.Get(ctx, k)
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, nil
}

func (s onStorage) Batch(ctx context.Context, deletes []string, puts []replay.Record) error {
	var ops []*storage.Operation
	for _, k := range deletes {
		ops = append(ops, storage.DeleteOperation(k))
	}
	for _, p := range puts {
		ops = append(ops, storage.SetOperation(p.Key, append([]byte(nil), p.Value...)))
	}
	return s.client.Batch(ctx, ops...)
}

var errKilled = errors.New("killed")

// mortal is a storage whose process can die: from then on nothing is written.
type mortal struct {
	onStorage
	dead bool
}

func (m *mortal) Batch(ctx context.Context, deletes []string, puts []replay.Record) error {
	if m.dead {
		return errKilled
	}
	return m.onStorage.Batch(ctx, deletes, puts)
}

func windowClient(t testing.TB, ext storage.Extension) storage.Client {
	t.Helper()
	c, err := ext.GetClient(t.Context(), component.KindExtension, component.MustNewID("nonce"), "windows")
	require.NoError(t, err)
	return c
}
