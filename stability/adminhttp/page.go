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

// page serves a page without any data in it: it asks for the token, unless the
// host's own authentication has let the reader in, and reads the rest.
func (h *Handler) page(w http.ResponseWriter, _ *http.Request) {
	html := pageHTML
	if h.allow != nil {
		html = strings.Replace(html, "<body>", `<body data-signed-in="yes">`, 1)
	}
	w.Header().Set("Content-Security-Policy", pagePolicy())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write([]byte(html))
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
