package adminhttp

import (
	"crypto/sha256"
	_ "embed" // the page
	"encoding/base64"
	"net/http"
	"strings"
)

//go:embed page.html
var pageHTML string

// page serves a page without any data in it: it asks for the token and reads
// the rest with it.
func (h *Handler) page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Security-Policy", pagePolicy())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write([]byte(pageHTML))
}

// pagePolicy lets exactly the page's own script and style run, and lets them
// reach nothing but this server.
func pagePolicy() string {
	return "default-src 'none'; script-src '" + inline("script") + "'; style-src '" + inline("style") +
		"'; connect-src 'self'; img-src blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
}

func inline(tag string) string {
	_, rest, _ := strings.Cut(pageHTML, "<"+tag+">")
	text, _, _ := strings.Cut(rest, "</"+tag+">")
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}
