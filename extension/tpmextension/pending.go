package tpmextension

import (
	"maps"
	"sync"

	"github.com/telemark-otel/telemark/internal/signing"
)

// pendings asks streams what they hold, for status pages.
type pendings struct {
	mu      sync.Mutex
	streams map[string]func() (blocks int, bytes int64)
}

func (p *pendings) watch(stream string, pending func() (blocks int, bytes int64)) (stop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams == nil {
		p.streams = map[string]func() (int, int64){}
	}
	p.streams[stream] = pending
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.streams, stream)
	})
}

// ask returns nil when nobody is watched.
func (p *pendings) ask() map[string]signing.Pending {
	p.mu.Lock()
	watched := maps.Clone(p.streams)
	p.mu.Unlock()
	if len(watched) == 0 {
		return nil
	}
	out := make(map[string]signing.Pending, len(watched))
	for stream, pending := range watched {
		blocks, bytes := pending()
		out[stream] = signing.Pending{Blocks: blocks, Bytes: bytes}
	}
	return out
}
