package link

import (
	"context"
	"errors"
	"net/http"
	"reflect"

	"go.mau.fi/whatsmeow"
	waLog "go.mau.fi/whatsmeow/util/log"
)

// HTTPClients is the name under which Config.Restored is told of the client's
// HTTP clients. The other settings have the names of the client's fields.
const HTTPClients = "SetProxy"

// Restore sets the client's settings as the next attempt needs them, as every
// Connect does. It is for a host that connects by its own call: where that call
// comes through our dialer it is done there too.
func (l *Link) Restore() {
	l.mu.Lock()
	c := l.client
	l.mu.Unlock()
	if c != nil {
		l.set(c, true)
	}
}

// set gives the client the settings that the next connection needs. The host
// may have changed them since the last time: SetProxy, for one, takes our
// dialer away. They are written only where they differ: the client may be
// alive. tell says that a difference is the host's doing.
func (l *Link) set(c *whatsmeow.Client, tell bool) {
	restored := func(setting string) {
		if tell {
			l.cfg.Restored(setting)
		}
	}
	flag := func(setting string, field *bool, v bool) {
		if *field != v {
			*field = v
			restored(setting)
		}
	}
	if c.EnableAutoReconnect && tell {
		l.endOwnReconnecting()
	}
	flag("EnableAutoReconnect", &c.EnableAutoReconnect, false)
	flag("InitialAutoReconnect", &c.InitialAutoReconnect, false)
	flag("DisableLoginAutoReconnect", &c.DisableLoginAutoReconnect, true)
	flag("EnableDecryptedEventBuffer", &c.EnableDecryptedEventBuffer, true)
	if c.AutoReconnectHook != nil {
		c.AutoReconnectHook = nil
		restored("AutoReconnectHook")
	}
	if c.RefreshCAT == nil {
		c.RefreshCAT = func(context.Context) error {
			return errors.New("link: the service asked for a new crypto auth token, and there is nothing to refresh it")
		}
	}
	if _, ours := c.Log.(*loopLogger); !ours && !l.cfg.without(LoopWords) {
		log := c.Log // another one of the host's is as good
		if log == nil {
			log = waLog.Noop
		}
		c.Log = &loopLogger{Logger: log, l: l}
	}
	if l.bypassed() || l.mediaBypassed() {
		restored(HTTPClients)
	}
	if _, ours := l.web.Transport.(attemptTripper); !ours { // SetProxy writes there
		l.web.Transport = attemptTripper{l}
	}
	if _, ours := l.files.Transport.(mediaTripper); !ours {
		l.files.Transport = mediaTripper{l}
	}
	// A transfer, or a Connect of the host's own, may be reading them.
	if !tell || !l.has("websocketHTTP", l.web) {
		c.SetWebsocketHTTPClient(l.web)
	}
	if !tell || !l.has("preLoginHTTP", l.web) {
		c.SetPreLoginHTTPClient(l.web)
	}
	if !tell || l.other("mediaHTTP", l.files) {
		c.SetMediaHTTPClient(l.files)
	}
}

// endOwnReconnecting ends whatsmeow's own attempts to come back, which a host may
// have set going: they look at no setting any more. No lock of whatsmeow's is taken.
func (l *Link) endOwnReconnecting() {
	if x := l.inside.expecter; x != nil {
		x.ExpectDisconnect()
	}
}

// bypassed reports whether the client dials with an HTTP client that is not
// ours. They are private fields: false where they are not found.
func (l *Link) bypassed() bool {
	if _, ours := l.web.Transport.(attemptTripper); !ours {
		return true
	}
	return l.other("websocketHTTP", l.web) || l.other("preLoginHTTP", l.web)
}

// mediaBypassed reports the same of the client's media.
func (l *Link) mediaBypassed() bool {
	_, ours := l.files.Transport.(mediaTripper)
	return !ours || l.other("mediaHTTP", l.files)
}

// has reports that the field was found and has our client.
func (l *Link) has(field string, own *http.Client) bool {
	return reflect.ValueOf(l.client).Elem().FieldByName(field).IsValid() && !l.other(field, own)
}

func (l *Link) other(field string, own *http.Client) bool {
	f := reflect.ValueOf(l.client).Elem().FieldByName(field)
	return f.IsValid() && f.Kind() == reflect.Pointer && f.Pointer() != reflect.ValueOf(own).Pointer()
}
