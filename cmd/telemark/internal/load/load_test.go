package load

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheRateIsOfTheWholeTime(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	const took = 300 * time.Millisecond
	r := Run(t.Context(), Options{
		Endpoint: srv.URL, Signal: Logs, Rate: 1, PerRequest: 10, Workers: 2, Duration: took, Service: "load", Client: srv.Client(),
	}, func(Report) {})
	require.EqualValues(t, 10, r.Accepted, "the next request is due after the end")
	require.GreaterOrEqual(t, r.Elapsed, took)
	require.Less(t, r.PerSecond(), 10/took.Seconds()+1)
}
