package adminhttp

// Remembered is how many addresses the limiter keeps.
func (h *Handler) Remembered() int {
	h.limit.mu.Lock()
	defer h.limit.mu.Unlock()
	return len(h.limit.by)
}

// Compatibility is the part wa.compat of status-now.
var Compatibility = compatibility
