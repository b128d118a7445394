// Sends the requests of the page that embeds this frame from the origin of the server, and posts back the answers.
//
// A request is JSON text: {mid, method, path, headers, entity, responseHeaders}; its answer {mid, status, headers, entity}, with those
// headers that the request names. What the frame was delivered with is answered from the element with the path as its id.
(function () {
  'use strict';

  var basePath = location.pathname.substring(0, location.pathname.lastIndexOf('/'));

  window.addEventListener('message', function (event) {
    var request = parse(event.data);
    if (!request || !request.mid) {
      return;
    }
    var answer = function (status, headers, entity) {
      var origin = event.origin === 'null' || event.origin.indexOf('file:') === 0 ? '*' : event.origin;
      var text = JSON.stringify({ mid: request.mid, status: status, headers: headers, entity: entity });
      event.source.postMessage(text, origin);
    };
    if (request.method === 'OAUTH') {
      refuse('log-in through other providers', answer);
      return;
    }
    var delivered = request.method === 'GET' && document.getElementById(request.path);
    if (delivered) {
      answerFrom(delivered, answer);
    } else {
      send(request, answer);
    }
  }, false);

  // Other scripts post messages too.
  function parse(data) {
    try {
      return typeof data === 'string' && JSON.parse(data);
    } catch (e) {
      return null;
    }
  }

  function answerFrom(element, answer) {
    var headers = { 'Content-Type': 'application/json' };
    var token = element.getAttribute('data-token');
    if (token) {
      headers['baqend-authorization-token'] = token;
    }
    if (element.getAttribute('data-cache-control').indexOf('no-cache') >= 0) {
      element.parentNode.removeChild(element);
    }
    answer(element.text ? 200 : 404, headers, element.text);
  }

  function send(request, answer) {
    var xhr = new XMLHttpRequest();
    xhr.onreadystatechange = function () {
      if (xhr.readyState !== 4) {
        return;
      }
      var headers = {};
      (request.responseHeaders || []).forEach(function (name) {
        headers[name] = xhr.getResponseHeader(name);
      });
      answer(xhr.status, headers, xhr.responseText);
    };
    xhr.open(request.method, basePath + request.path, true);
    Object.keys(request.headers || {}).forEach(function (name) {
      xhr.setRequestHeader(name, request.headers[name]);
    });
    xhr.send(request.entity);
  }

  function refuse(what, answer) {
    answer(468, { 'Content-Type': 'application/json' }, JSON.stringify({
      message: 'this version of larder does not offer ' + what,
      reason: 'Query Not Supported',
      className: 'QueryNotSupported',
      code: 'query_not_supported',
      effect: 'none'
    }));
  }
})();
