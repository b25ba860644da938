package identity_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// serve serves until the test ends.
func serve(t *testing.T, h http.Handler) (url string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}
