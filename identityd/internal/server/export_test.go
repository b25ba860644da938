package server

import "slices"

// Table is method and path of every route.
func Table() []string {
	var out []string
	for _, r := range routes {
		out = append(out, r.method+" "+r.path)
	}
	slices.Sort(out)
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

// Size is what a route takes of a body, 0 when it takes none.
func Size(method, path string) int64 { return find(method, path).body }
