package podmantest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What netavark 1.4 writes for two installations of which each publishes a port.
const listed = `-P OUTPUT ACCEPT
-N NETAVARK-1D8721804F16F
-A OUTPUT -m addrtype --dst-type LOCAL -j NETAVARK-HOSTPORT-DNAT
-A POSTROUTING -s 10.230.23.0/24 -j NETAVARK-1D8721804F16F
-A POSTROUTING -s 10.181.164.0/24 -j NETAVARK-1D8721804F16F
-A NETAVARK-1D8721804F16F -d 10.230.23.0/24 -j ACCEPT
-A NETAVARK-1D8721804F16F ! -d 224.0.0.0/4 -j MASQUERADE
-A NETAVARK-DN-1D8721804F16F -s 10.230.23.0/24 -d 127.0.0.1/32 -p tcp -m tcp --dport 14738 -j NETAVARK-HOSTPORT-SETMARK
-A NETAVARK-DN-1D8721804F16F -s 127.0.0.1/32 -d 127.0.0.1/32 -p tcp -m tcp --dport 14738 -j NETAVARK-HOSTPORT-SETMARK
-A NETAVARK-DN-1D8721804F16F -d 127.0.0.1/32 -p tcp -m tcp --dport 14738 -j DNAT --to-destination 10.230.23.4:8080
-A NETAVARK-DN-1D8721804F16F -d 127.0.0.1/32 -p tcp -m tcp --dport 34211 -j DNAT --to-destination 10.181.164.19:8080
-A NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport 14738 -m comment --comment "dnat name: podman id: 8eef" -j NETAVARK-DN-1D8721804F16F
-A NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport 34211 -m comment --comment "dnat name: podman id: 3f79" -j NETAVARK-DN-1D8721804F16F
-A OTHER -p tcp -m tcp --dport 14738 -j ACCEPT
`

func TestOnlyTheRulesOfOneInstallationAreFound(t *testing.T) {
	var got []string
	for _, rule := range rulesOf(strings.Split(listed, "\n"), "10.230.23.") {
		got = append(got, strings.Join(rule, " "))
	}
	require.Equal(t, []string{
		"POSTROUTING -s 10.230.23.0/24 -j NETAVARK-1D8721804F16F",
		"NETAVARK-1D8721804F16F -d 10.230.23.0/24 -j ACCEPT",
		"NETAVARK-DN-1D8721804F16F -s 10.230.23.0/24 -d 127.0.0.1/32 -p tcp -m tcp --dport 14738 -j NETAVARK-HOSTPORT-SETMARK",
		"NETAVARK-DN-1D8721804F16F -s 127.0.0.1/32 -d 127.0.0.1/32 -p tcp -m tcp --dport 14738 -j NETAVARK-HOSTPORT-SETMARK",
		"NETAVARK-DN-1D8721804F16F -d 127.0.0.1/32 -p tcp -m tcp --dport 14738 -j DNAT --to-destination 10.230.23.4:8080",
		"NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport 14738 -m comment --comment dnat name: podman id: 8eef -j NETAVARK-DN-1D8721804F16F",
	}, got)
	require.Empty(t, rulesOf(strings.Split(listed, "\n"), "10.230.2."))
}
