package tpmextension

import (
	"strconv"
	"sync"

	"github.com/telemark-otel/telemark/internal/block"
)

// streamNames hands out stream names so that no two users number blocks under
// one: a name that is open already gets "#2", "#3" and so on.
type streamNames struct {
	mu   sync.Mutex
	open map[string]struct{}
}

// acquire returns the name to use and what gives it back. The name is cut
// where the suffix would make it longer than a stream name may be.
func (s *streamNames) acquire(name string) (unique string, release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = make(map[string]struct{})
	}
	unique = name
	for n := 2; s.taken(unique); n++ {
		suffix := "#" + strconv.Itoa(n)
		unique = name[:min(len(name), block.MaxStreamLen-len(suffix))] + suffix
	}
	s.open[unique] = struct{}{}
	return unique, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, unique)
	})
}

func (s *streamNames) taken(name string) bool {
	_, ok := s.open[name]
	return ok
}
