package ratls

var (
	Wrap   = wrap
	Unwrap = unwrap
)
