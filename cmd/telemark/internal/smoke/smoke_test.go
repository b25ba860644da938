package smoke

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReasonsOfWhatWasRefusedMeanwhile(t *testing.T) {
	before := progress{reasons: map[string]uint64{"outside": 3, "duplicate": 1}}
	now := progress{reasons: map[string]uint64{"outside": 4, "duplicate": 1, "key_revoked": 2}}
	require.Equal(t, "key_revoked, outside", now.since(before))
	require.Empty(t, before.since(now))
}

func TestARefusalThatIsNoAgentsIsNoSuccess(t *testing.T) {
	for contentType, ok := range map[string]bool{"application/json": true, "text/plain": false} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`"Client sent an HTTP request to an HTTPS server."`))
		}))
		s := smoke{o: Options{Agent: srv.URL, Client: srv.Client()}}
		_, err := s.badRequest(t.Context())
		require.Equal(t, ok, err == nil, contentType)
		srv.Close()
	}
}
