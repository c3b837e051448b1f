package reconnect

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	waBinary "go.mau.fi/whatsmeow/binary"
)

// Prefixes of the stanzas that matter. All else is rejected by the first few
// bytes.
const (
	tagStreamError = "stream:error"
	tagFailure     = "failure"
	tagStreamEnd   = "xmlstreamend"
)

// maxStanza is how much of a stanza is looked at, in bytes.
const maxStanza = 8 << 10

// ClassifyStanza is Classify for a Stanza, without the allocation that a
// conversion to any may cost: it is meant to be called for every received
// stanza. The text is as whatsmeow's XMLString prints it. Attribute values are
// not escaped there, so this is no XML parser and takes any input.
func ClassifyStanza(text string) (c Cause, ends bool) {
	// "<s", "<f" or "<x" in front, else it is none of them.
	if len(text) < len("<failure/>") || text[0] != '<' {
		return Cause{}, false
	}
	switch text[1] {
	case 's':
		if !hasTag(text, tagStreamError) {
			return Cause{}, false
		}
	case 'f':
		if !hasTag(text, tagFailure) {
			return Cause{}, false
		}
	case 'x':
		if !hasTag(text, tagStreamEnd) {
			return Cause{}, false
		}
	default:
		return Cause{}, false
	}
	return classifyEnd(text), true
}

// hasTag reports whether text opens with the element tag.
func hasTag(text, tag string) bool {
	if !strings.HasPrefix(text[1:], tag) || len(text) <= 1+len(tag) {
		return false
	}
	switch text[1+len(tag)] {
	case ' ', '/', '>', '\n', '\t', '\r':
		return true
	}
	return false
}

func classifyEnd(text string) Cause {
	text = text[:min(len(text), maxStanza)]
	name, attrs, rest := element(text)
	conflict, child := "", ""
	if name == tagStreamError {
		// Only the children's own tags count, not what stands in text.
		for rest != "" {
			var tag, a string
			tag, a, rest = element(rest)
			if tag == "conflict" && conflict == "" {
				conflict = attr(a, "type")
			}
			if child == "" && tag != "" && tag[0] != '/' {
				child = tag
			}
		}
	}
	return endOf(name, func(name string) string { return attr(attrs, name) }, conflict, child)
}

// ClassifyNode is ClassifyStanza for a stanza that was parsed already, as
// newer versions of whatsmeow give it to their logger. It looks at the tag and
// at the few attributes that matter; nothing is rendered. nil is no end.
func ClassifyNode(n *waBinary.Node) (c Cause, ends bool) {
	if n == nil {
		return Cause{}, false
	}
	switch n.Tag {
	case tagStreamError, tagFailure, tagStreamEnd:
	default:
		return Cause{}, false
	}
	conflict, child := "", ""
	if children, ok := n.Content.([]waBinary.Node); ok && n.Tag == tagStreamError {
		for i := range children {
			if children[i].Tag == "conflict" && conflict == "" {
				conflict = nodeAttr(&children[i], "type")
			}
			if child == "" {
				child = children[i].Tag
			}
		}
	}
	return endOf(n.Tag, func(name string) string { return nodeAttr(n, name) }, conflict, child), true
}

// nodeAttr is an attribute as XMLString would print it.
func nodeAttr(n *waBinary.Node, name string) string {
	switch v := n.Attrs[name].(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}

// endOf is what a stanza that ends a connection means.
func endOf(tag string, attr func(name string) string, conflict, child string) Cause {
	var c Cause
	switch tag {
	case tagStreamError:
		c = streamError(attr("code"), conflict, child)
	case tagFailure:
		c = failure(wireCode(attr("reason")))
		switch c.Reason {
		case ReasonTemporaryBan:
			c = ban(wireCode(attr("code")), seconds(attr("expire")))
		default:
			// A 403 explains itself in words meant for the owner.
			for _, name := range []string{"message", "logout_message_header", "logout_message_subtext"} {
				if s := plain(attr(name)); s != "" && c.Detail == "" {
					c.Detail = s
				}
			}
		}
	default:
		c = Cause{Reason: ReasonConnectionClosed, Detail: "the server ended the stream"}
	}
	c.Source = SourceTap
	return c
}

// element finds the next tag in text: its name, its attributes as text, and
// what follows it. A ">" inside a value does not end it, unless the value is
// never closed.
func element(text string) (name, attrs, rest string) {
	open := strings.IndexByte(text, '<')
	if open < 0 {
		return "", "", ""
	}
	text = text[open+1:]
	end, quoted := -1, false
	for i := 0; i < len(text) && end < 0; i++ {
		switch {
		case text[i] == '"' && quoted:
			quoted = !closes(text[i+1:])
		case text[i] == '"':
			quoted = i > 0 && text[i-1] == '='
		case text[i] == '>' && !quoted:
			end = i
		}
	}
	if end < 0 {
		if end = strings.IndexByte(text, '>'); end < 0 {
			end = len(text)
		}
	}
	tag := text[:end]
	if end < len(text) {
		rest = text[end+1:]
	}
	if i := strings.IndexAny(tag, space); i >= 0 {
		return strings.TrimSuffix(tag[:i], "/"), tag[i:], rest
	}
	return strings.TrimSuffix(tag, "/"), "", rest
}

const space = " \n\t\r"

// closes reports whether a quote in front of after ends a value: the tag or
// the text ends there, or another attribute follows. Any other quote belongs
// to the value.
func closes(after string) bool {
	after = strings.TrimPrefix(after, "/")
	if after == "" || after[0] == '>' {
		return true
	}
	name := strings.TrimLeft(after, space)
	if len(name) == len(after) {
		return false
	}
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '=':
			return i > 0 && strings.HasPrefix(name[i+1:], `"`)
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == ':':
		default:
			return i == 0 && strings.HasPrefix(name, "/>")
		}
	}
	return name == ""
}

// attr reads one attribute of a tag, walking over the values of the others.
func attr(attrs, name string) string {
	for {
		attrs = strings.TrimLeft(attrs, space)
		key, value, ok := strings.Cut(attrs, `="`)
		if !ok {
			return ""
		}
		end := 0
		for end < len(value) && !(value[end] == '"' && closes(value[end+1:])) {
			end++
		}
		if end == len(value) {
			return ""
		}
		if key == name {
			return value[:end]
		}
		attrs = value[end+1:]
	}
}

// seconds reads a duration in seconds; nonsense is 0, overflow is the longest
// possible.
func seconds(s string) time.Duration {
	const most = 1<<63 - 1
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	if n > int64(most/time.Second) {
		return most
	}
	return time.Duration(n) * time.Second
}
