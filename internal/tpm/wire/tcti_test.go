package wire

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTCTIConfigurationsNameDevices(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]Address{
		"device:/dev/tpmrm0":                {Path, "/dev/tpmrm0"},
		"device:/dev/../dev/tpm0":           {Path, "/dev/tpm0"},
		"swtpm:host=127.0.0.1,port=2321":    {TCP, "127.0.0.1:2321"},
		"swtpm:port=2400":                   {TCP, "localhost:2400"},
		"swtpm:host=::1":                    {TCP, "[::1]:2321"},
		"swtpm:path=/run/swtpm.sock":        {Unix, "/run/swtpm.sock"},
		"swtpm:/var/lib/tpm":                {SWTPM, "/var/lib/tpm"},
		"swtpm:relative":                    {SWTPM, "relative"},
		"swtpm:/srv/a=b":                    {SWTPM, "/srv/a=b"},
		"swtpm:port=2321,host=tpm.internal": {TCP, "tpm.internal:2321"},
	} {
		got, err := ParseAddress(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
	}
	for s, why := range map[string]string{
		"device:tpmrm0":             "character device",
		"device:":                   "nothing follows",
		"mssim:host=localhost":      "Microsoft simulator",
		"tabrmd:bus_type=session":   "/dev/tpmrm0",
		"swtpm:host=":               "takes host=HOST",
		"swtpm:host=a,host=b":       "takes host=HOST",
		"swtpm:host=a,ctrl=2322":    "takes host=HOST",
		"swtpm:path=/a,port=1":      "takes host=HOST",
		"swtpm:port=0":              "between 1 and 65535",
		"swtpm:port=65536":          "between 1 and 65535",
		"swtpm:host=localhost,2321": "takes host=HOST",
	} {
		_, err := ParseAddress(s)
		require.ErrorContains(t, err, why, s)
	}
}
