package server

// Table is method and path of every route, and who may call it.
func Table() map[string]string {
	out := map[string]string{}
	for _, r := range routes {
		out[r.method+" "+r.path] = string(r.access)
	}
	return out
}

func find(method, path string) *route {
	for i := range routes {
		if routes[i].method == method && routes[i].path == path {
			return &routes[i]
		}
	}
	return &route{}
}

// Parameters are the query parameters of a route.
func Parameters(method, path string) []string { return find(method, path).query }

// TakesBody reports whether a route takes a body.
func TakesBody(method, path string) bool { return find(method, path).body > 0 }

// Decode is what bodies are read with.
var Decode = decode
